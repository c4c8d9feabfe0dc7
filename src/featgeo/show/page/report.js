// Offer the embedded data as a file; without scripts the link stays hidden and the page is complete.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const file = new Blob([JSON.stringify(data, null, 1), "\n"], { type: "application/json" });
  const link = document.getElementById("save");
  link.href = URL.createObjectURL(file);
  link.hidden = false;
})();
