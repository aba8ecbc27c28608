"""The service: answers requests with one bundle. Its image holds neither the pipeline nor a tracking client."""
