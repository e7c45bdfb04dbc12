raise ImportError("moved: import from experiments.slots (a types.py beside a script shadows the standard library's)")
