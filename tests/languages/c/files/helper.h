static const char *greeting(void) { return "from helper"; }
