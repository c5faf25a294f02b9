"""x"""
class ScMVPProcessor: pass
