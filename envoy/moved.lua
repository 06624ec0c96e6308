-- Serves /api/rag/... as /api/v1/rag/...: rewritten before anything judges the path, so that the same checks follow.
-- request.lua says on the answer that the path is deprecated.

local OLD, NEW = "/api/rag", "/api/v1/rag"

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get(":path")
  local moved = NEW .. path:sub(#OLD + 1)
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("ragweave.legacy", "path", path:match("^[^?#]*"))
  metadata:set("ragweave.legacy", "successor", moved:match("^[^?#]*"))
  headers:replace(":path", moved)
  handle:clearRouteCache()
end
