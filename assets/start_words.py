"""What start.py says, in English and in Chinese. Knows no machine."""

TEXTS = {
    "help": (
        """bash assets/start.sh [--download] [flags of app.py]        (Windows: assets\\start.bat)

Makes an environment in .venv, installs what is missing, chooses a model and opens the studio. Started again,
it installs nothing.

  --download       fetch the model that suits this card, where there are no weights yet
  YIWEN_VENV=DIR   the environment elsewhere, on a larger disk for example
  YIWEN_LANG=en    these messages in English; zh: in Chinese
  models/          weights, a folder for each model; /models and the hub's cache are looked into too
  wheels/          packages, to install without a network: pip download -r requirements.txt -d wheels

PIP_INDEX_URL and HF_ENDPOINT name mirrors. Flags of app.py:
""",
        """bash assets/start.sh [--download] [app.py 的参数]        （Windows：assets\\start.bat）

在 .venv 中建立环境，安装缺少的软件包，选择模型，打开网页。再次运行时不会重复安装。

  --download       本机还没有权重时，下载适合这块显卡的模型
  YIWEN_VENV=目录  把环境放到别处，例如更大的磁盘
  YIWEN_LANG=zh    中文提示；en：英文提示
  models/          模型权重，每个模型一个文件夹；/models 和 hub 缓存也会查找
  wheels/          离线安装用的软件包：pip download -r requirements.txt -d wheels

镜像由 PIP_INDEX_URL 和 HF_ENDPOINT 指定。app.py 的参数：
""",
    ),
    # ---- the port
    "running": ("Yiwen is running already: {address}", "译文已在运行：{address}"),
    "port_taken": (
        "Port {port} is taken by another program; start with --port {free}, or stop that program.",
        "端口 {port} 已被其他程序占用；请加上 --port {free} 启动，或先停止该程序。",
    ),
    "no_listen": (
        "Cannot listen on {host}, port {port}: {why}; choose another --host or --port.",
        "无法监听 {host} 的端口 {port}：{why}；请换一个 --host 或 --port。",
    ),
    # ---- the machine
    "python": ("Python   {version}, {path}", "Python   {version}，{path}"),
    "card": (
        "Card     {name} ({device}): {total} GB, {free} free; driver {driver}, CUDA {cuda}",
        "显卡     {name}（{device}）：显存 {total} GB，空闲 {free} GB；驱动 {driver}，CUDA {cuda}",
    ),
    "no_card": (
        "Card     none that nvidia-smi knows of: the CPU translates",
        "显卡     未检测到 NVIDIA 显卡（nvidia-smi）：使用 CPU 翻译",
    ),
    "smi_failed": (
        "Card     nvidia-smi cannot reach the driver ({why}), so the CPU translates; reinstall the driver, or give the "
        "container its card (docker run --gpus all).",
        "显卡     nvidia-smi 无法访问驱动（{why}），使用 CPU 翻译；请重装驱动，容器请加 --gpus all。",
    ),
    "smi_unread": (
        "Card     nvidia-smi of driver {driver} does not say what the card can do, so the CPU translates; install a "
        "newer driver.",
        "显卡     驱动 {driver} 的 nvidia-smi 无法报告显卡能力，使用 CPU 翻译；请升级驱动。",
    ),
    "memory": ("Memory   {total} GB, {free} free", "内存     {total} GB，空闲 {free} GB"),
    "too_small": ("This machine is too small for any model: {why}", "这台机器放不下任何模型：{why}"),
    # ---- the environment
    "disk": ("Disk     {free} GB free in {folder}", "磁盘     {folder} 空闲 {free} GB"),
    "disk_full": (
        "To install takes {needed} GB in {folder}, and {free} GB are free; make room, or name a folder on a larger "
        "disk: YIWEN_VENV=/path/to/folder.",
        "安装需要在 {folder} 占用 {needed} GB，但只有 {free} GB 空闲；"
        "请清理磁盘，或用 YIWEN_VENV=/目录 指定更大的磁盘。",
    ),
    "no_venv": (
        "This Python ({path}) cannot make environments: its module {module} is missing; install it (Debian, Ubuntu: "
        "apt install python{version}-venv) and start again.",
        "这个 Python（{path}）缺少 {module} 模块，无法建立环境；"
        "请安装它（Debian/Ubuntu：apt install python{version}-venv），再运行一次。",
    ),
    "venv": ("Making an environment in {folder} …", "正在 {folder} 建立环境……"),
    "venv_failed": (
        "No environment could be made in {folder} (see above); name another folder: YIWEN_VENV=/path/to/folder.",
        "无法在 {folder} 建立环境（原因见上）；请用 YIWEN_VENV=/目录 指定别的位置。",
    ),
    "not_a_venv": (
        "{folder} holds something that is no Python environment; name another folder in YIWEN_VENV.",
        "{folder} 中有其他文件，不是 Python 环境；请用 YIWEN_VENV 指定别的目录。",
    ),
    "waiting": (
        "Another start is installing; this one waits for it …",
        "另一个启动脚本正在安装，等待其完成……",
    ),
    "install": (
        "Installing what requirements.txt names (once): {size} GB with what is downloaded …",
        "正在安装 requirements.txt 中的软件包（仅第一次）：连下载共 {size} GB……",
    ),
    "install_more": (
        "Installing what is missing of requirements.txt …",
        "正在安装 requirements.txt 中缺少的软件包……",
    ),
    "wheels": ("Installing from {folder}, without a network …", "正在从 {folder} 离线安装……"),
    "index_slow": (
        "The package index {index} took {seconds} s to answer; PIP_INDEX_URL names a nearer one.",
        "软件源 {index} 响应用了 {seconds} 秒；可换用国内镜像：PIP_INDEX_URL={mirror}",
    ),
    "index_away": (
        "The package index {index} does not answer; name a mirror in PIP_INDEX_URL, or put the packages into wheels/ "
        "(see --help).",
        "软件源 {index} 无法访问；请换用国内镜像：PIP_INDEX_URL={mirror}，或离线安装（见 --help）。",
    ),
    "install_failed": (
        "Not all could be installed (pip ended with {status}, its reason is above); start again and it goes on.",
        "安装没有完成（pip 退出码 {status}，原因见上）；再运行一次即可继续。",
    ),
    "interrupted": ("Interrupted; start again and it goes on.", "已中断；再运行一次即可继续。"),
    "old_driver": (
        "Driver {driver} knows CUDA up to {has}, and the installed torch needs CUDA {needs}, so the CPU translates; "
        "install a newer driver, whose nvidia-smi says CUDA {major}.0 or more.",
        "驱动 {driver} 最高支持 CUDA {has}，而已安装的 torch 需要 CUDA {needs}，因此使用 CPU 翻译；"
        "请升级驱动，直到 nvidia-smi 显示 CUDA {major}.0 或更高。",
    ),
    "old_card": (
        "{name} is too old for CUDA {needs}, which the installed torch needs, so it is left alone.",
        "{name} 太旧，不支持已安装的 torch 所需的 CUDA {needs}，因此不使用它。",
    ),
    "cpu_torch": (
        "The installed torch has no CUDA, so the CPU translates; delete {folder} and start again.",
        "已安装的 torch 不带 CUDA，因此使用 CPU 翻译；请删除 {folder} 后再运行一次。",
    ),
    # ---- the model
    "model_asked": ("Model    {model}, as asked for", "模型     {model}（按指定使用）"),
    "model_found": ("Model    {model}, whose weights are here. {plan}", "模型     {model}（本机已有权重）。{plan}"),
    "model_embedded": ("Model    the small one that ships with Yiwen. {plan}", "模型     自带的小模型。{plan}"),
    "model_unfit": ("         {model} is here too, but: {why}", "         本机也有 {model}，但是放不下：{why}"),
    "plan": (
        "In {weights} on {device}: {total} GB in all, {slots} segments at once",
        "精度 {weights}，运行于 {device}：共占 {total} GB，同时翻译 {slots} 段",
    ),
    "slow": (" (slow: a few words a second, since no card holds all of it)", "（显卡放不下全部，很慢：每秒几个词）"),
    "suggest": (
        "         This card has room for {model} ({licence}, {size} GB): 38 languages, and far better translations; "
        "--download fetches it.",
        "         这块显卡放得下 {model}（{licence}，{size} GB）：支持 38 种语言，译文好得多；"
        "加上 --download 即可下载。",
    ),
    "ask": ("         Fetch it now? [y/N] ", "         现在下载吗？[y/N] "),
    "nothing_suits": (
        "--download: no model larger than the one that ships suits this machine; start without it.",
        "--download：没有更大的模型适合这台机器；请去掉该参数再启动。",
    ),
    "download": ("Fetching {model}, {size} GB, from {source} …", "正在从 {source} 下载 {model}（{size} GB）……"),
    "download_failed": (
        "The model was not fetched whole (its reason is above); start again with --download and it goes on.",
        "模型没有下载完（原因见上）；再次加上 --download 启动即可继续，也可加上镜像 HF_ENDPOINT={mirror}。",
    ),
    # ---- serving
    "up": ("Yiwen is open:  {address}", "译文已打开：  {address}"),
    "up_outside": ("From outside:   {address}", "外部访问：    {address}"),
    "up_keys": (
        "Whoever reaches this port may translate; with --api-keys nobody gets in without a key.",
        "能访问该端口的人都可以使用；加上 --api-keys 可要求密钥。",
    ),
    "jupyter": (
        "From outside: start with --host 0.0.0.0 and open port {port}, or through Jupyter's proxy with --host 0.0.0.0 "
        "--root-path {prefix}proxy/{port}.",
        "从外部访问：加上 --host 0.0.0.0 启动，再点平台的“网页推理”（端口 {port}）；"
        "经 Jupyter 代理访问时再加上 --root-path {prefix}proxy/{port}。",
    ),
    "ready": ("Ready to translate: {address}", "可以翻译了：{address}"),
    "lost": ("The card is lost to that process; starting anew …", "该进程已失去显卡；正在重新启动……"),
}
