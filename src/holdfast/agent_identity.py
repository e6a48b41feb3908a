from holdfast.canonical import digest


def agent_parts(agent, name):
    return {
        f"model of `{name}`": digest(str(agent.model), "m", "s"),
        f"instructions of `{name}`": digest(agent.instructions, "m", "s"),
    }
