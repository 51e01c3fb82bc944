pub fn greeting() -> &'static str {
    "from helper"
}
