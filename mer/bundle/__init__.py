"""Bundles: several trials of one architecture trained in one step, each as if it were alone.

mer.bundle.declared   which recipes bundle, and why the others do not (no torch: a plan asks)
mer.bundle.trainer    `BundleTrainer`
mer.bundle.weights    the members' weights in one array
mer.bundle.batches    the members' batches at one shape
mer.bundle.dropout    each member's own dropout masks at the members' common shape
mer.bundle.modules    the few modules that vmap cannot take, or takes badly
mer.bundle.optimizer  one update for all members, with rates, decay and clipping of their own
"""
