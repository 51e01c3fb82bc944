return { greeting = function() return "from helper" end }
