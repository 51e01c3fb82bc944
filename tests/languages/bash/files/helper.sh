greeting() {
    echo "from helper"
}
