-- Serves /api/rag/... as /api/v1/rag/...: rewritten before anything judges the path, so that the same checks follow.
-- What it notes of the call becomes headers of the answer (envoy.yaml.j2).
--
-- DEPRECATED, header values, is rendered above this file.

local OLD, NEW = "/api/rag", "/api/v1/rag"

-- RFC 8288 has the target between < and >.
local function link_to(path)
  return "<" .. path:gsub("[^%w/:._~%-]", function(c) return ("%%%02X"):format(c:byte()) end) .. '>; rel="successor-version"'
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(":path")
  local moved = NEW .. path:sub(#OLD + 1)
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("ragweave.legacy", "path", path:match("^[^?#]*"))
  metadata:set("ragweave.legacy", "link", link_to(moved:match("^[^?#]*")))
  for name, value in pairs(DEPRECATED) do metadata:set("ragweave.legacy", name, value) end
  headers:replace(":path", moved)
  handle:clearRouteCache()
end
