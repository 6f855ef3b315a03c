"""Do two groups of recordings differ in what a model makes of them?"""
