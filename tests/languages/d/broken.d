void main() {
    int number = broken;
}
