"""Supported video files: names of containers in libavformat, and the file extensions of each."""

# Excluded, since they open other files or URLs: concat, hls, dash, imf, sdp, and the image sequences (image2 and the
# *_pipe formats). Extensions that mostly mean something else (.ogg, .dat, .webp, .swf) are left out too. The content
# decides what a file is; its extension only says that it is worth opening.
CONTAINERS = {
    "mov,mp4,m4a,3gp,3g2,mj2": (".mp4", ".m4v", ".mp4v", ".mov", ".qt", ".3gp", ".3gpp", ".3g2", ".f4v", ".mj2"),
    "avi": (".avi", ".divx", ".xvid"),
    "matroska,webm": (".mkv", ".mk3d", ".webm"),
    "mpeg": (".mpg", ".mpeg", ".mpe", ".m2p", ".vob", ".mod"),
    "mpegts": (".ts", ".mts", ".m2ts", ".m2t", ".tod", ".trp"),
    "asf": (".wmv", ".asf"),
    "flv": (".flv",),
    "ogg": (".ogv", ".ogm"),
    "mxf": (".mxf",),
    "gxf": (".gxf",),
    "rm": (".rm", ".rmvb"),
    "wtv": (".wtv",),
    "nut": (".nut",),
    "dhav": (".dav",),
    "gif": (".gif",),
    "apng": (".apng",),
    "ivf": (".ivf",),
    # Raw video streams.
    "dv": (".dv", ".dif"),
    "mjpeg": (".mjpeg", ".mjpg"),
    "mpegvideo": (".m1v", ".m2v", ".mpv"),
    "m4v": (),
    "h264": (".h264", ".264"),
    "hevc": (".h265", ".265", ".hevc"),
    "obu": (".obu",),
    "yuv4mpegpipe": (".y4m",),
}
VIDEO_SUFFIXES = frozenset(suffix for suffixes in CONTAINERS.values() for suffix in suffixes)
