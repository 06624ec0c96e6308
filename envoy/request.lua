-- Refuses REST requests that do not fit the contract, before they are transcoded: unknown paths, query parameters and body
-- fields, wrong types, malformed JSON. The transcoder drops unknown body fields, reads 'single quotes' as JSON, and names
-- no field when an object stands where a string should.
--
-- CONTRACT is rendered above this file from the compiled descriptors (services/mesh/edge_keys.py):
--   CONTRACT.messages[full name][field as written] = {name, kind, of, list, map, oneof}   (both spellings, one table)
--   CONTRACT.enums[full name] = {NAME = true, ...}
--   CONTRACT.methods["/service/method"] = true; CONTRACT.open[service] = true where it is no part of the contract itself
--   CONTRACT.bindings = {{verb, segments, custom, body, raw, query, taken}, ...}
--   CONTRACT.limits = {json, upload}   (bytes)
--
-- Nothing here may let a request through by failing: an error of this script itself is answered with 500.

local byte, find, match, sub, format = string.byte, string.find, string.match, string.sub, string.format

local MAX_DEPTH = 64 -- nested objects and lists; protobuf itself stops at 100
local MAX_NUMBER = 64 -- characters of a number; bounds what a pattern that backtracks can cost
local MAX_SHOWN = 128 -- characters of a caller's own name or path that an answer repeats

local EXPECTED = {
  any = "a JSON value", bool = "true or false", bytes = "base64 text", double = "a number", duration = 'a duration such as "3.5s"',
  enum = "one of its names", fieldmask = 'field names such as "title,metadata"', float = "a number", free = "an object",
  freelist = "a list", int = "a whole number", message = "an object", string = "a string",
  timestamp = 'a time such as "2026-01-31T12:00:00Z"', uint = "a whole number, 0 or more",
}

-- Where the walk is, outermost first: strings are fields, numbers are places in a list. Never held across a yield.
local trail, depth = {}, 0

local function field_path()
  local path = ""
  for i = 1, depth do
    local step = trail[i]
    if type(step) == "number" then
      path = format("%s[%d]", path, step)
    else
      step = sub(step, 1, MAX_SHOWN)
      path = path == "" and step or path .. "." .. step
    end
  end
  return path
end

local function refuse(status, field, problem, header, value)
  field = field and sub(field, 1, MAX_DEPTH * MAX_SHOWN)
  error({status = status, field = field, problem = problem, header = header, value = value}, 0)
end

local function wrong(problem)
  refuse(400, field_path(), problem)
end

local function enter(step)
  if depth >= MAX_DEPTH then wrong("nested too deeply") end
  depth = depth + 1
  trail[depth] = step
end

local function leave() depth = depth - 1 end

-- Suggestions ------------------------------------------------------------------------------------------------------------

local function edits(a, b) -- Levenshtein's distance
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local diagonal = row[0]
    row[0] = i
    for j = 1, #b do
      local cost = byte(a, i) == byte(b, j) and 0 or 1
      local least = math.min(row[j] + 1, row[j - 1] + 1, diagonal + cost)
      diagonal, row[j] = row[j], least
    end
  end
  return row[#b]
end

local function suggestion(names, written)
  if #written > 64 then return "" end
  local wanted, best, least = written:lower():gsub("_", ""), nil, 3
  for name in pairs(names) do
    local distance = edits(name:lower():gsub("_", ""), wanted)
    if distance < least or (distance == least and best and name < best) then best, least = name, distance end
  end
  return best and least < #wanted and format("; did you mean %s?", best) or ""
end

local function json_names(fields)
  local names = {}
  for _, field in pairs(fields) do names[field.name] = true end
  return names
end

local function enum_names(enum)
  local names = {}
  for name in pairs(CONTRACT.enums[enum]) do
    if not find(name, "_UNSPECIFIED$") then names[#names + 1] = name end
  end
  table.sort(names)
  return table.concat(names, ", ")
end

-- JSON (RFC 8259), checked while it is read --------------------------------------------------------------------------------
--
-- These loops see every byte of every body: bytes and no patterns, loops and no closures, since LuaJIT compiles neither.

local function malformed(i, problem)
  refuse(400, "", format("the body is not JSON: %s at byte %d", problem, i))
end

local function skip(s, i)
  local c = byte(s, i)
  while c == 32 or c == 10 or c == 13 or c == 9 do
    i = i + 1
    c = byte(s, i)
  end
  return i
end

-- Returns where the UTF-8 character at i ends (RFC 3629: shortest form, no surrogates, at most U+10FFFF), nil if it is none.
local function character(s, i)
  local a, b = byte(s, i, i + 1)
  local length = a >= 0xC2 and a <= 0xDF and 2 or a >= 0xE0 and a <= 0xEF and 3 or a >= 0xF0 and a <= 0xF4 and 4
  if not length or #s < i + length - 1 then return nil end
  local least = a == 0xE0 and 0xA0 or a == 0xF0 and 0x90 or 0x80
  local most = a == 0xED and 0x9F or a == 0xF4 and 0x8F or 0xBF
  if b < least or b > most then return nil end
  for j = i + 2, i + length - 1 do
    local c = byte(s, j)
    if c < 0x80 or c > 0xBF then return nil end
  end
  return i + length
end

-- Checks an escape whose backslash is at i; returns where it ends. UTF-16 surrogates must come in pairs.
local function escape(s, i)
  local c = sub(s, i + 1, i + 1)
  if c == "u" then
    local high = tonumber(match(s, "^%x%x%x%x", i + 2) or malformed(i, "a bad \\u escape"), 16)
    if high < 0xD800 or high > 0xDFFF then return i + 6 end
    local low = tonumber(match(s, "^\\u(%x%x%x%x)", i + 6) or "0", 16)
    if high > 0xDBFF or low < 0xDC00 or low > 0xDFFF then malformed(i, "half a surrogate pair") end
    return i + 12
  end
  if not find(c, '^["\\/bfnrt]') then malformed(i, "a bad escape") end
  return i + 2
end

-- Checks the string whose quote is at i; returns where it ends and whether it holds escapes.
local function text(s, i)
  local j, escaped = i + 1, false
  while true do
    local c = byte(s, j)
    if c == 34 then return j + 1, escaped end
    if not c then malformed(i, "a string that does not end") end
    if c == 92 then
      j, escaped = escape(s, j), true
    elseif c < 32 then
      malformed(j, "a control character in a string")
    elseif c < 128 then
      j = j + 1
    else
      j = character(s, j) or malformed(j, "not UTF-8")
    end
  end
end

local SHORT = {b = "\b", f = "\f", n = "\n", r = "\r", t = "\t"}

-- What is between the quotes, escapes of ASCII characters resolved: enough to know a name.
local function content(s, from, to, escaped)
  local raw = sub(s, from + 1, to - 2)
  if not escaped then return raw end
  return (raw:gsub("\\(.)(%x?%x?%x?%x?)", function(c, hex)
    if c ~= "u" then return (SHORT[c] or c) .. hex end
    local code = tonumber(hex, 16)
    return code < 128 and string.char(code) or "\\u" .. hex
  end))
end

local function past_digits(s, i)
  local c = byte(s, i)
  while c and c >= 48 and c <= 57 do
    i = i + 1
    c = byte(s, i)
  end
  return i
end

local IN_NUMBERS = {} -- bytes that end no number
for c in ("+-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"):gmatch(".") do IN_NUMBERS[byte(c)] = true end

-- Checks the number at i; returns where it ends and whether it is written without a fraction and an exponent.
local function number(s, i)
  local j = byte(s, i) == 45 and i + 1 or i
  local ending = byte(s, j) == 48 and j + 1 or past_digits(s, j)
  if ending == j then malformed(i, "a bad number") end
  local whole, c = true, byte(s, ending)
  if c == 46 then
    j, whole = ending + 1, false
    ending = past_digits(s, j)
    if ending == j then malformed(i, "a bad number") end
    c = byte(s, ending)
  end
  if c == 101 or c == 69 then
    j, whole, c = ending + 1, false, byte(s, ending + 1)
    if c == 43 or c == 45 then j = j + 1 end
    ending = past_digits(s, j)
    if ending == j then malformed(i, "a bad number") end
  end
  if IN_NUMBERS[byte(s, ending) or 0] then malformed(i, "a bad number") end
  return ending, whole
end

local WORDS = {[116] = "true", [102] = "false", [110] = "null"}

local function word(s, i)
  local expected = WORDS[byte(s, i)]
  if not expected or sub(s, i, i + #expected - 1) ~= expected then malformed(i, "an unexpected character") end
  return i + #expected
end

local value

-- Where the first member of the object or list at i starts; nil and where the whole ends, if there is none.
local function first_member(s, i, close)
  i = skip(s, i + 1)
  if byte(s, i) == close then return nil, i + 1 end
  return i
end

-- The same for the member after the one that ends at i.
local function next_member(s, i, close)
  i = skip(s, i)
  local c = byte(s, i)
  if c == close then return nil, i + 1 end
  if c ~= 44 then malformed(i, c and "an unexpected character" or "an unexpected end") end
  return skip(s, i + 1)
end

local function key(s, i)
  if byte(s, i) ~= 34 then malformed(i, "no quoted name") end
  local j, escaped = text(s, i)
  local name = content(s, i, j, escaped)
  j = skip(s, j)
  if byte(s, j) ~= 58 then malformed(j, "no colon after a name") end
  return name, skip(s, j + 1)
end

-- An object with names of its own (a map, a Struct), or of nothing declared.
local function free_object(s, i, field)
  local at, ending = first_member(s, i, 125)
  while at do
    local name, start = key(s, at)
    enter(name)
    at, ending = next_member(s, value(s, start, field), 125)
    leave()
  end
  return ending
end

local function list(s, i, field)
  local n = 0
  local at, ending = first_member(s, i, 93)
  while at do
    enter(n)
    if byte(s, at) == 110 and field.kind ~= "any" then wrong("null in a list; expected " .. EXPECTED[field.kind]) end
    at, ending = next_member(s, value(s, at, field), 93)
    leave()
    n = n + 1
  end
  return ending
end

local function object(s, i, fields)
  local seen = {}
  local at, ending = first_member(s, i, 125)
  while at do
    local name, start = key(s, at)
    local field = fields[name]
    enter(name)
    if not field then wrong("unknown field" .. suggestion(json_names(fields), name)) end
    if seen[field] then wrong("given twice") end
    seen[field] = true
    if field.oneof and byte(s, start) ~= 110 then
      if seen[field.oneof] then wrong(format("given together with %s; only one of them may be", seen[field.oneof])) end
      seen[field.oneof] = name
    end
    at, ending = next_member(s, value(s, start, field, true), 125)
    leave()
  end
  return ending
end

local ANY = {kind = "any"}

local function found(c)
  if c == 34 then return "a string" end
  if c == 123 then return "an object" end
  if c == 91 then return "a list" end
  if c == 116 or c == 102 then return "a boolean" end
  return c == 110 and "null" or "a number"
end

local function mismatch(kind, c)
  wrong(format("expected %s, got %s", EXPECTED[kind], found(c)))
end

local INT_BITS = {int32 = 31, uint32 = 32} -- 64 bit bounds are beyond a double: the transcoder checks them

local IN_QUOTES = {string = true, bytes = true, timestamp = true, duration = true, fieldmask = true}

local function in_range(field, n)
  local bits = INT_BITS[field.of]
  if field.kind == "uint" and n < 0 then wrong("expected " .. EXPECTED.uint) end
  if bits and (n >= 2 ^ bits or n < -2 ^ 31) then wrong("the number is out of range") end
end

-- Checks a scalar that is written as a string, in the body or as a query parameter.
local function scalar(field, written)
  local kind = field.kind
  if #written > MAX_NUMBER and kind ~= "enum" and not IN_QUOTES[kind] then wrong("expected " .. EXPECTED[kind]) end
  if kind == "int" or kind == "uint" then
    local whole = match(written, "^-?%d+$") or (match(written, "^-?%d+%.?%d*[eE]?[+-]?%d*$") and tonumber(written) and
      tonumber(written) % 1 == 0 and written)
    if not whole then wrong(format("expected %s", EXPECTED[kind])) end
    in_range(field, tonumber(whole))
  elseif kind == "double" or kind == "float" then
    local special = written == "NaN" or written == "Infinity" or written == "-Infinity"
    if not special and not (match(written, "^-?%d+%.?%d*[eE]?[+-]?%d*$") and tonumber(written)) then
      wrong("expected " .. EXPECTED[kind])
    end
  elseif kind == "bool" then
    if written ~= "true" and written ~= "false" then wrong("expected true or false") end
  elseif kind == "timestamp" then
    if not match(written, "^%d%d%d%d%-%d%d%-%d%d[Tt]%d%d:%d%d:%d%d[.%d]*[Zz+-][%d:]*$") then
      wrong(format('expected %s, found "%s"', EXPECTED[kind], sub(written, 1, MAX_SHOWN)))
    end
  elseif kind == "enum" then
    local names = CONTRACT.enums[field.of]
    if not names[written] and not match(written, "^-?%d+$") then
      wrong(format('"%s" is not one of %s%s', sub(written, 1, MAX_SHOWN), enum_names(field.of), suggestion(names, written)))
    end
  end
end

local function quoted(s, i, field)
  local kind = field.kind
  if kind == "bool" or kind == "message" or kind == "free" or kind == "freelist" then mismatch(kind, 34) end
  local j, escaped = text(s, i)
  if kind ~= "any" and not IN_QUOTES[kind] then
    local written = content(s, i, j, escaped)
    if kind ~= "enum" and not find(written, "^[-%dNI]") then mismatch(kind, 34) end
    scalar(field, written)
  end
  return j
end

local function digits(s, i, field)
  local kind = field.kind
  local j, whole = number(s, i)
  if kind == "any" then return j end
  if j - i <= MAX_NUMBER then
    if kind == "double" or kind == "float" then return j end
    if whole and (kind == "int" or kind == "uint") then
      in_range(field, tonumber(sub(s, i, j - 1)))
      return j
    end
  end
  if IN_QUOTES[kind] or kind == "bool" or kind == "message" or kind == "free" or kind == "freelist" then
    mismatch(kind, 48)
  end
  local written = sub(s, i, j - 1)
  if kind == "enum" and find(written, "[.eE]") then mismatch(kind, 48) end
  scalar(field, written)
  return j
end

-- Checks the value at i against a field; `whole` where it is the field itself and not one of its members.
value = function(s, i, field, whole)
  local c = byte(s, i) or malformed(i, "an unexpected end")
  if c == 110 and (whole or field.kind == "any") then return word(s, i) end -- null: the field is not set
  if whole and field.map then
    if c ~= 123 then mismatch("free", c) end
    return free_object(s, i, field)
  end
  if whole and field.list then
    if c ~= 91 then mismatch("freelist", c) end
    return list(s, i, field)
  end
  local kind = field.kind
  if c == 34 then return quoted(s, i, field) end
  if c == 123 then
    if kind == "message" then return object(s, i, CONTRACT.messages[field.of]) end
    if kind == "free" or kind == "any" then return free_object(s, i, ANY) end
    mismatch(kind, c)
  end
  if c == 91 then
    if kind == "freelist" or kind == "any" then return list(s, i, ANY) end
    mismatch(kind, c)
  end
  if c == 45 or (c >= 48 and c <= 57) then return digits(s, i, field) end
  local ending = word(s, i)
  if kind ~= "any" and (kind ~= "bool" or c == 110) then mismatch(kind, c) end
  return ending
end

-- Returns the first byte that is not UTF-8, or nil.
local function not_utf8(s)
  local i = find(s, "[\128-\255]")
  while i do
    local ending = character(s, i)
    if not ending then return i end
    i = find(s, "[\128-\255]", ending)
  end
end

local function check_body(s, message)
  depth = 0
  local i = skip(s, 1)
  if byte(s, i) ~= 123 then malformed(i, "no object") end
  i = skip(s, object(s, i, CONTRACT.messages[message]))
  if i <= #s then malformed(i, "something after the object") end
end

-- Paths --------------------------------------------------------------------------------------------------------------------

-- tree: literal or "*" -> subtree; tree.leaf[custom verb or ""][HTTP verb] = binding
-- fixed: the same leaves by path, of paths without a variable
local tree, fixed = {}, {}
for _, binding in ipairs(CONTRACT.bindings) do
  local node = tree
  for _, segment in ipairs(binding.segments) do
    node[segment] = node[segment] or {}
    node = node[segment]
  end
  node.leaf = node.leaf or {}
  node.leaf[binding.custom] = node.leaf[binding.custom] or {}
  node.leaf[binding.custom][binding.verb] = binding
  local path = "/" .. table.concat(binding.segments, "/") .. (binding.custom ~= "" and ":" .. binding.custom or "")
  if not find(path, "*", 1, true) then fixed[path] = node.leaf[binding.custom] end
end

local function lookup(node, segments, i, custom)
  if i > #segments then return node.leaf and node.leaf[custom] end
  local segment = segments[i]
  if segment == "" then return nil end
  local literal = segment ~= "*" and segment ~= "leaf" and node[segment]
  return literal and lookup(literal, segments, i + 1, custom) or node["*"] and lookup(node["*"], segments, i + 1, custom)
end

local function verbs_at(path)
  local segments = {}
  for segment in path:gmatch("/([^/]*)") do segments[#segments + 1] = segment end
  local last = segments[#segments]
  if not last then return nil end
  local head, custom = match(last, "^(.*):([^:]*)$")
  if head then
    segments[#segments] = head
    return lookup(tree, segments, 1, custom) -- no id holds a colon
  end
  return lookup(tree, segments, 1, "")
end

local function binding_of(verb, path)
  local verbs = fixed[path] or verbs_at(path)
  if not verbs then refuse(404, nil, "no such path: " .. sub(path, 1, 2 * MAX_SHOWN)) end
  if verbs[verb] then return verbs[verb] end
  local allowed = {}
  for each in pairs(verbs) do allowed[#allowed + 1] = each end
  table.sort(allowed)
  allowed = table.concat(allowed, ", ")
  refuse(405, nil, format("%s does not take %s, only %s", path, verb, allowed), "allow", allowed)
end

-- Query ----------------------------------------------------------------------------------------------------------------------

local function unescaped(s)
  if find(s, "%%%X") or find(s, "%%.?$") or find(s, "%%%x%X") then
    refuse(400, sub(s, 1, MAX_SHOWN), "a bad percent escape")
  end
  s = s:gsub("+", " "):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  if not_utf8(s) or find(s, "%z") then refuse(400, "", "the query string is not UTF-8 text") end
  return s
end

local NOT_IN_QUERY = {message = true, any = true, free = true, freelist = true}

local function query_field(binding, name)
  local message, field = binding.query, nil
  local top = true
  for step in (name .. "."):gmatch("([^.]*)%.") do
    local fields = message and CONTRACT.messages[message]
    local next_field = fields and fields[step]
    if not next_field then
      refuse(400, name, "unknown query parameter" .. (fields and suggestion(json_names(fields), step) or ""))
    end
    if top and binding.taken[next_field.name] then
      refuse(400, name, format("unknown query parameter; it is given by the %s", binding.taken[next_field.name]))
    end
    field, top = next_field, false
    message = field.kind == "message" and not field.list and not field.map and field.of or nil
  end
  if NOT_IN_QUERY[field.kind] or field.map then refuse(400, name, "unknown query parameter; it belongs in a body") end
  return field
end

local function check_query(binding, query)
  if query == "" then return end
  local seen = {}
  for pair in query:gmatch("[^&]+") do
    local name, written = match(pair, "^([^=]*)=?(.*)$")
    name, written = sub(unescaped(name), 1, MAX_SHOWN), unescaped(written)
    local field = query_field(binding, name)
    if seen[field] and not field.list then refuse(400, name, "given twice") end
    seen[field] = true
    depth = 0
    enter(name)
    scalar(field, written)
    leave()
  end
end

-- The filter -----------------------------------------------------------------------------------------------------------------

-- Parameters tokens are put in elsewhere (RFC 6750, 2.3 and its like). They end up in logs and histories: refused everywhere.
local TOKENS = {access_token = true, api_key = true, apikey = true, authorization = true, bearer = true, id_token = true,
  jwt = true, token = true}

local IN_TOKENS = {} -- RFC 6750, 2.1
for c in ("+-./0123456789=ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"):gmatch(".") do IN_TOKENS[byte(c)] = true end

local function is_bearer(sent)
  local scheme = sub(sent, 1, 7)
  if (scheme ~= "Bearer " and scheme ~= "bearer " and scheme ~= "BEARER ") or #sent == 7 then return false end
  for i = 8, #sent do
    if not IN_TOKENS[byte(sent, i)] then return false end
  end
  return true
end

-- Refuses what Envoy and what is behind it might read differently, so that both judge the same caller.
local function check_caller(headers, query)
  if find(headers:get(":authority") or "", ",", 1, true) then refuse(400, "", "more than one host") end
  local sent = headers:get("authorization")
  if sent and not is_bearer(sent) then refuse(401, nil, "authorization is not one bearer token") end
  if query == "" then return end
  for name in query:gmatch("([^=&]+)") do
    if TOKENS[name:lower()] then refuse(401, nil, "a token does not belong in the query string") end
  end
end

-- gRPC has its paths alone, without a query. What gRPC servers answer with a bare reset, which looks like their own
-- failure, is put right or refused here.
local function check_grpc(headers, path, query)
  if not CONTRACT.methods[path] and not CONTRACT.open[match(path, "^/([^/]*)/[^/]+$") or ""] then
    refuse(404, nil, "no such method")
  end
  if query ~= "" then refuse(400, "", "a gRPC path takes no query") end
  local encoding = headers:get("grpc-encoding") or "identity"
  if encoding ~= "identity" and encoding ~= "gzip" and encoding ~= "deflate" then
    refuse(501, nil, "this grpc-encoding is not known; identity, gzip and deflate are")
  end
  if headers:get(":method") ~= "POST" then refuse(405, nil, "gRPC is called by POST", "allow", "POST") end
  if headers:get("te") ~= "trailers" then headers:replace("te", "trailers") end
end

local function declared_length(headers)
  return tonumber(headers:get("content-length") or "") or 0
end

-- Pages are read and nothing else; which there are, whoever serves them knows.
local function is_page(path)
  return CONTRACT.pages[match(path, "^/[^/]*")] ~= nil
end

local function check_page(headers, path)
  local verb = headers:get(":method")
  if verb ~= "GET" and verb ~= "HEAD" then
    refuse(405, nil, format("%s does not take %s, only GET, HEAD", sub(path, 1, 2 * MAX_SHOWN), verb), "allow", "GET, HEAD")
  end
  if declared_length(headers) > 0 then refuse(400, "", "this path takes no body") end
end

-- As Envoy itself tells gRPC from others; what only begins so is held to the rules of REST.
local function is_grpc(kind)
  return kind == "application/grpc" or find(kind, "^application/grpc%+") ~= nil
end

-- Returns the binding of a REST call, nothing for gRPC.
local function check_head(headers, kind)
  local target = headers:get(":path") -- CONNECT has none
  if not target then refuse(405, nil, "this method is not served", "allow", "DELETE, GET, PATCH, POST, PUT") end
  local path, query = target, ""
  if find(target, "?", 1, true) or find(target, "#", 1, true) then path, query = match(target, "^([^?#]*)%??(.*)$") end
  check_caller(headers, query)
  if is_grpc(kind) then return check_grpc(headers, path, query) end
  if is_page(path) then return check_page(headers, path) end
  local binding = binding_of(headers:get(":method"), path)
  check_query(binding, query)
  local limit = binding.raw and CONTRACT.limits.upload or CONTRACT.limits.json
  if declared_length(headers) > limit then
    refuse(413, nil, "the body is too large")
  end
  return binding
end

local function check_content(kind, binding, body)
  local length = body and body:length() or 0
  if length == 0 then return end
  if not binding.body then refuse(400, "", "this path takes no body") end
  if kind ~= "application/json" and kind ~= "" and not find(kind:lower(), "^application/json%s*;?") then
    refuse(415, nil, "the body must be JSON: send content-type: application/json")
  end
  check_body(body:getBytes(0, length), binding.body)
end

local function answer(handle, refusal)
  if type(refusal) ~= "table" then
    handle:logErr("request.lua: " .. tostring(refusal))
    refusal = {status = 500, problem = "internal error"}
  end
  local message = refusal.problem
  if refusal.field then
    local metadata = handle:streamInfo():dynamicMetadata()
    metadata:set("ragweave.edge", "field", refusal.field)
    metadata:set("ragweave.edge", "problem", refusal.problem)
    if refusal.field ~= "" then message = refusal.field .. ": " .. message end
  end
  local headers = {[":status"] = tostring(refusal.status)}
  if refusal.header then headers[refusal.header] = refusal.value end
  handle:respond(headers, message)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local id = headers:get("x-request-id")
  if id and (#id > 128 or find(id, "[^%w._:-]")) then
    headers:replace("x-request-id", (sub(id, 1, 128):gsub("[^%w._:-]", "-")))
  end
  local kind = headers:get("content-type") or ""
  local fits, binding = pcall(check_head, headers, kind)
  if not fits then return answer(handle, binding) end
  if not binding then return end
  if binding.raw then return end -- a file of any type, streamed and not held here
  local body = handle:body() -- waits for all of it; `headers` may not be used after a wait
  local whole, refusal = pcall(check_content, kind, binding, body)
  if not whole then return answer(handle, refusal) end
end
