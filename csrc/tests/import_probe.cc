// A library with one import, for import_table_test.
#include <unistd.h>

extern "C" __attribute__((visibility("default"))) int probe_parent() { return getppid(); }
