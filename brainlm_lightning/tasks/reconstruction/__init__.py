"""How much of hidden brain activity follows from the visible?"""
