// The landing page: the command with this server's own address, and the languages it knows.
import { copyButton } from "./copy.js";

const block = document.getElementById("curl");
const pre = block.querySelector("pre");
pre.textContent = pre.textContent.replace("http://localhost:8080", location.origin);
block.append(copyButton(() => pre.textContent, "Copy the command"));

try {
  const answer = await fetch("/", { headers: { Accept: "application/json" } });
  const service = await answer.json();
  document.getElementById("version").textContent = `sandboxd ${service.version}`;
  if (service.languages.length > 0) {
    const links = service.languages.map((id) => {
      const link = document.createElement("a");
      link.className = "language";
      link.href = `/play?language=${encodeURIComponent(id)}`;
      link.textContent = id;
      return link;
    });
    document.getElementById("languages").replaceChildren(...links);
  }
} catch {
  // The page already says where the list is.
}
