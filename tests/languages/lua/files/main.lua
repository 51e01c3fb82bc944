local helper = require("helper")

print(helper.greeting())
