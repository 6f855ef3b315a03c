"""Does an embedding carry the person?"""
