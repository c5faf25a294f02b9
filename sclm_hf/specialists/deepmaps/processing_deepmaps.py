class DeepMAPSProcessor: pass
