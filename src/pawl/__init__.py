"""The machinery around your task: pipeline, bundle, and what comes after."""
