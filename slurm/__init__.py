import dreamer

dreamer.end_quietly_on_ctrl_c()
