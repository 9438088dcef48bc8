-- Health of an SLMDeployment (https://slmpack.dev), from its conditions alone. Only base functions are used, so that it
-- runs without useOpenLibs.

-- Reasons of Ready=False that do not pass by waiting: somebody has to look. What has no room (yet), starts, rolls out or
-- waits for its model is on its way; the operator says Stalled where waiting is in vain.
local trouble = {
  InternalError = true,
  NameConflict = true,
  CreateRefused = true,
  OOMKilled = true,
  ImagePullBackOff = true,
  NotAttached = true,
  CrashLoop = true,
  EngineFailed = true,
  Evicted = true,
  PodFailed = true,
  NotReadyInTime = true,
  NodeLost = true,
  SupervisorUnreachable = true,
  BackOff = true,
  RolloutStopped = true,
}

local function say(status, message)
  return { status = status, message = message }
end

local status = obj.status
if status == nil or status.conditions == nil then
  return say("Progressing", "the operator has not seen it yet")
end

local found = {}
for _, condition in ipairs(status.conditions) do
  found[condition.type] = condition
end

local ready = found.Ready
if ready == nil then
  return say("Progressing", "the operator has not judged it yet")
end

-- A Ready=True of an earlier spec says nothing about this one.
local generation = obj.metadata.generation
if status.observedGeneration ~= generation or ready.observedGeneration ~= generation then
  return say("Progressing", "the operator has not seen the present spec yet")
end

local message = ready.reason .. ": " .. ready.message
if status.ready ~= nil and ready.status ~= "True" then
  message = status.ready .. " Ready; " .. message
end

if ready.status == "True" then
  -- Scaled to zero is Healthy: an SLMDeployment with scaling.min 0 is so every night, and Suspended would hold up syncs.
  local scaling = found.ScalingActive
  if scaling ~= nil and scaling.status ~= "True" then
    message = message .. "; scaling holds the number, " .. scaling.reason .. ": " .. scaling.message
  end
  if status.outdatedReplicas ~= nil and status.outdatedReplicas > 0 then
    message = message .. "; " .. status.outdatedReplicas .. " made by an older version of the operator keep running"
  end
  return say("Healthy", message)
end

local stalled = found.Stalled
if stalled ~= nil and stalled.status == "True" then
  return say("Degraded", message)
end
if ready.status == "False" and trouble[ready.reason] then
  return say("Degraded", message)
end
return say("Progressing", message)
