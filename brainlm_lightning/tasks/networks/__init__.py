"""Does a model know which functional network a parcel belongs to?"""
