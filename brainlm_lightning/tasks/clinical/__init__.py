"""Can a clinical variable be predicted from brain dynamics?"""
