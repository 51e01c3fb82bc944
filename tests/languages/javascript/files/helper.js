exports.greeting = () => "from helper";
