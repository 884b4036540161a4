"""The model store: a Hub cache layout in which every snapshot is vouched for by a manifest."""
