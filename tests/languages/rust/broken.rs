fn main() {
    let broken: i32 = "text";
}
