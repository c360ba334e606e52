"""Images in, checked: npz files, splits, patients, folds, downloads, phantoms, pictures."""
