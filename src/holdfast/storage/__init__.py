"""Places that keep sessions, interchangeable behind `base.Storage`."""
