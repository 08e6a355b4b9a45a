"""Out of the notebook: inverse kinematics, files, video, surfaces, reports."""
