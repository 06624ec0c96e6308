"""The version of what jobs keep in Redis, and the steps that bring older data to it."""

import re
from collections.abc import Mapping
from typing import Final

from redis.exceptions import ResponseError

STEPS: Final[Mapping[int, str]] = {
    1: "",  # data without a mark is of the first version, which had none
    # Items that failed are dead letters.
    2: """
for _, list in ipairs(call('KEYS', P .. '*:list')) do
  local tenant = list:sub(#P + 1, -6)
  for _, id in ipairs(call('ZRANGE', list, 0, -1)) do
    local job = load_job(tenant, id)
    if job and job.failed > 0 then
      local items = call('HGETALL', key(tenant, 'items', id))
      for i = 1, #items, 2 do
        local item = cmsgpack.unpack(items[i + 1])
        if item[1] == 'FAILED' and tonumber(items[i]) > 0 then
          call('ZADD', key(tenant, 'failed', id), item[6], items[i])
          call('SADD', key(tenant, 'dead'), id)
        end
      end
      if job.purge > 0 then call('PEXPIREAT', key(tenant, 'failed', id), string.format('%.0f', job.purge)) end
    end
  end
end
""",
    # Tenants with ended jobs are known by when the first of those is forgotten.
    3: """
for _, purge in ipairs(call('KEYS', P .. '*:purge')) do purge_next(purge:sub(#P + 1, -7)) end
""",
}
"""Lua that makes data of each version from the one before's. It sees what redis.lua defines, and runs in one piece with
the mark and with the command that found the data old: whoever else comes finds all of it done, after a crash nothing.
"""

_NEWER = re.compile(r"SCHEMA (\d+)")


def versioned(script: str, steps: Mapping[int, str]) -> str:
    """The script with its last line's command run on data of the latest version only, after the steps that lack."""
    body, _, last = script.rstrip().rpartition("\n")
    functions = "\n".join(f"STEPS[{version}] = function()\n{step}\nend" for version, step in steps.items())
    return f"""{body}
local SCHEMA, STEPS = {max(steps)}, {{}}
{functions}
local MARK = P .. 'schema'
local found = tonumber(call('GET', MARK) or 0)
if found > SCHEMA then return redis.error_reply('SCHEMA ' .. found) end
for version = found + 1, SCHEMA do STEPS[version]() end
if found < SCHEMA then call('SET', MARK, SCHEMA) end
{last}
"""


def newer_version(error: ResponseError) -> int | None:
    """The version of data that a versioned script refused for being newer."""
    found = _NEWER.match(str(error))
    return int(found[1]) if found else None
