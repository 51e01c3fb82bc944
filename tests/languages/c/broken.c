int main(void) { return broken; }
