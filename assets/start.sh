#!/bin/sh
# One click: bash assets/start.sh [flags of app.py]. Finds a Python that will do; all else is start.py's, beside this file.
set -eu

here=$0
while [ -L "$here" ]; do # a link on a desktop
    target=$(readlink "$here")
    case $target in
        /*) here=$target ;;
        *) here=$(dirname -- "$here")/$target ;;
    esac
done
here=$(CDPATH='' cd -- "$(dirname -- "$here")" && pwd -P)

for modules in sys,venv,ensurepip sys; do # one that can make an environment, rather than a newer one that cannot
    for python in python3.13 python3.12 python3.11 python3 python; do
        if "$python" -c "import $modules; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1; then
            exec "$python" "$here/start.py" "$@"
        fi
    done
done

case ${YIWEN_LANG:-${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}} in
    zh*)
        echo "译文：需要 Python 3.11 或更新版本，但没有找到。" \
            "请安装它（Debian/Ubuntu：apt install python3.12 python3.12-venv；conda：conda install python=3.12），再运行一次。"
        ;;
    *)
        echo "Yiwen: Python 3.11 or newer is needed, and none was found; install one" \
            "(Debian, Ubuntu: apt install python3.12 python3.12-venv; conda: conda install python=3.12) and start again."
        ;;
esac >&2
exit 2
