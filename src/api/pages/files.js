// Files that a program made: images are shown, everything can be saved.
import { bytesOf } from "./output.js";
import { size } from "./verdict.js";

const IMAGES = { png: "image/png", jpg: "image/jpeg", jpeg: "image/jpeg", gif: "image/gif", webp: "image/webp", svg: "image/svg+xml" };

/** Addresses of the files on the page, given back when the next ones come. */
const addresses = [];

/** Puts `[{name, bytes, content, encoding}]` into `place`, instead of what was there. */
export function showFiles(place, files) {
  for (const address of addresses.splice(0)) URL.revokeObjectURL(address);
  const figures = files.map(({ name, bytes, content, encoding }) => {
    const data = encoding === "base64" ? bytesOf(content) : new TextEncoder().encode(content);
    const figure = document.createElement("figure");
    const type = IMAGES[name.split(".").at(-1).toLowerCase()];
    if (type) {
      const image = document.createElement("img");
      image.src = encoding === "base64" ? `data:${type};base64,${content}` : `data:${type},${encodeURIComponent(content)}`;
      image.alt = `${name}, made by the program`;
      figure.append(image);
    }
    const link = document.createElement("a");
    // Never the file's own type: what a program made must not open as a page of this server.
    link.href = URL.createObjectURL(new Blob([data], { type: "application/octet-stream" }));
    link.download = name.split("/").at(-1);
    link.textContent = name;
    addresses.push(link.href);
    figure.append(link, ` ${size(bytes ?? data.length)}`);
    return figure;
  });
  place.replaceChildren(...figures);
  if (figures.length > 0) place.scrollIntoView({ block: "nearest" });
}
