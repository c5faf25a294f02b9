class DeepMAPSProcessor:
    pass
