"""Files to windows: readers, the HDF5 store, scaling statistics and the LightningDataModule."""
