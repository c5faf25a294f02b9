class MarsGTProcessor:
    pass
