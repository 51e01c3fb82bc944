let greeting () = "from helper"
