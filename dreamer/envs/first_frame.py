"""A program that draws one frame with MuJoCo and prints what draws it.

It runs in a process of its own, since a broken driver may hang or crash (rendering.py).
"""

from __future__ import annotations


def main() -> None:
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><light pos="0 0 3"/><geom size="1"/></worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = mujoco.Renderer(model, 64, 64)
    renderer.update_scene(data)
    if not renderer.render().any():
        raise SystemExit("the first frame is black")
    from OpenGL import GL  # after the renderer has chosen PyOpenGL's platform

    print("draws:", GL.glGetString(GL.GL_RENDERER).decode())
    renderer.close()


if __name__ == "__main__":
    main()
