"""Statistics for three to ten studies, in numpy and scipy alone.

paired      differences of two cells over studies: interval, tests, effect, what n can decide
family      Holm's correction
levels      two-level intervals (study and dialogue or speaker); confusion: metrics from counts
folds       Nadeau and Bengio's correction
corpora     random effects over corpora
best        model confidence set: what cannot be separated from the best
factorial   main effects and interactions on complete slices
curves      area under a missing-rate curve
search      expected validation performance, what pruning did, boundary hits
"""
