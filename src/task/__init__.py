"""Yours: what is predicted from what. Six small files; the functions return unfitted scikit-learn objects.

data.py      what happens to each batch of rows on its way in
params.py    the settings of your features, in params.yaml under `featurize`
features.py  records -> what the estimator sees
model.py     the estimator
metrics.py   metrics of your own, beside the standard ones
slices.py    groups of records of your own, beside the columns in `evaluate.slices`
"""
