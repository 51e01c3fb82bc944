import _ from "lodash";

interface Part {
  text: string;
  place: number;
}

const parts: Part[] = [{ text: "ages", place: 2 }, { text: "pack", place: 1 }];
console.log(_.sortBy(parts, (part) => part.place).map((part) => part.text).join(""));
