const _ = require("lodash");

console.log(_.chunk([..."packages"], 8)[0].join(""));
