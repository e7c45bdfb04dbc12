(function () {
  "use strict";
  function key(cell) {
    var raw = cell.dataset.sort;
    if (raw === undefined || raw === "") return null;
    var number = Number(raw);
    return Number.isNaN(number) ? raw.toLowerCase() : number;
  }
  function compare(a, b) {
    if (a === b) return 0;
    if (a === null) return 1;
    if (b === null) return -1;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a < b ? -1 : 1;
  }
  function sortable(table) {
    var heads = Array.prototype.slice.call(table.querySelectorAll("thead th button"));
    heads.forEach(function (button, index) {
      var head = button.parentNode;
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", function () {
        var down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach(function (other) { other.parentNode.setAttribute("aria-sort", "none"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        var body = table.tBodies[0];
        var rows = Array.prototype.slice.call(body.rows).map(function (row, i) { return { row: row, key: key(row.cells[index]), i: i }; });
        rows.sort(function (a, b) {
          // empty entries stay last in both directions
          if (a.key === null || b.key === null) return compare(a.key, b.key) || a.i - b.i;
          return (down ? -1 : 1) * compare(a.key, b.key) || a.i - b.i;
        });
        rows.forEach(function (entry) { entry.row.classList.remove("rule"); body.appendChild(entry.row); });
      });
    });
  }
  function filter(input) {
    var table = document.getElementById(input.dataset.filter);
    input.addEventListener("input", function () {
      var words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      Array.prototype.forEach.call(table.tBodies[0].rows, function (row) {
        var text = row.textContent.toLowerCase();
        row.hidden = !words.every(function (word) { return text.indexOf(word) >= 0; });
      });
    });
  }
  var details = document.getElementById("trial-details");
  details.addEventListener("toggle", function fill() {
    if (!details.open) return;
    details.removeEventListener("toggle", fill);
    var data = JSON.parse(document.getElementById("trial-data").textContent);
    var table = document.getElementById("table-trials");
    var line = document.createElement("tr");
    var text = data.columns.map(function (_, j) {
      return data.rows.every(function (row) { return row[j] === null || typeof row[j] !== "number"; });
    });
    data.columns.forEach(function (name, j) {
      var head = document.createElement("th");
      head.scope = "col";
      head.className = text[j] ? "text" : "number";
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      head.appendChild(button);
      line.appendChild(head);
    });
    table.tHead.appendChild(line);
    var body = document.createDocumentFragment();
    data.rows.forEach(function (row) {
      var element = document.createElement("tr");
      row.forEach(function (value, j) {
        var cell = document.createElement("td");
        cell.className = text[j] ? "text" : "number";
        cell.dataset.sort = value === null ? "" : String(value);
        cell.textContent = value === null ? "–" : String(value);
        element.appendChild(cell);
      });
      body.appendChild(element);
    });
    table.tBodies[0].appendChild(body);
    document.getElementById("trials-shown").textContent = data.rows.length + " rows";
    sortable(table);
  });
  Array.prototype.forEach.call(document.querySelectorAll("table.data:not(#table-trials)"), sortable);
  Array.prototype.forEach.call(document.querySelectorAll("input[data-filter]"), filter);
})();
