console.log("unreached"; // broken
