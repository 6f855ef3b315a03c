"""How far does the future of brain activity follow from its past?"""
