"""Files and what keeps them whole: documents, run folders, journals, locks, progress."""
