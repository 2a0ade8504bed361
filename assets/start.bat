@echo off
rem One click: start.bat [flags of app.py]. Finds a Python that will do; all else is start.py's, beside this file.
setlocal EnableExtensions DisableDelayedExpansion
chcp 65001 >nul
set "PYTHONUTF8=1"
for %%P in ("py -3.13" "py -3.12" "py -3.11" "py -3" "python") do (
    %%~P -c "import sys; sys.exit(sys.version_info < (3, 11))" >nul 2>&1 && set "PYTHON=%%~P" && goto found
)
goto missing

:found
%PYTHON% "%~dp0start.py" %*
set "STATUS=%ERRORLEVEL%"
rem A window that was opened by a double click would close before its last line could be read.
if not "%STATUS%"=="0" pause
exit /b %STATUS%

rem Last, since cmd looks for its labels byte by byte, and these lines are not ASCII.
:missing
echo Yiwen: Python 3.11 or newer is needed, and none was found; install one from https://www.python.org/downloads/ and start again.
echo 译文：需要 Python 3.11 或更新版本，但没有找到；请从 https://www.python.org/downloads/ 安装，再运行一次。
pause
exit /b 2
