"""Pure logic: settings, results, plans. Reads and writes nothing outside the process."""
