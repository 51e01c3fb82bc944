module helper;

string greeting() {
    return "from helper";
}
