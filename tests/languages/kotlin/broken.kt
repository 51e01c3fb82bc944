fun main() {
    val number: Int = "broken"
}
