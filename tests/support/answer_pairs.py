# ruff: noqa: E501
r"""Gold answers with other spellings of them, and with answers that are not: a line each, gold first, separated by " | "."""

RIGHT = r"""
\frac{3}{4} | \dfrac34 | 0.75 | .75 | 3/4 | \frac{6}{8} | \tfrac{3}{4} | \frac 34 | 75\% | \left(\frac{3}{4}\right) | {3 \over 4} | x = \frac{3}{4} | ¾ | 3 \div 4 | \text{The answer is } \frac{3}{4} | \frac{\text{3}}{4} | \frac{3}{4}. | $\frac{3}{4}$ | \(\frac34\) | 0.750 | (3)/(4) | \displaystyle\frac{3}{4}
-\frac{3}{4} | \frac{-3}{4} | \frac{3}{-4} | -0.75 | -3/4 | - \frac{3}{4} | −3/4 | -\left(\frac{3}{4}\right) | -(3/4)
2\frac{1}{3} | \frac{7}{3} | 7/3 | 2 1/3 | 2+\frac13 | 2 \frac13 | 2\dfrac{1}{3} | 2.\overline{3} | 2\,\frac{1}{3}
-2\frac{1}{3} | -\frac{7}{3} | -2 1/3 | -(2+1/3)
0.\overline{3} | \frac13 | 0.\bar{3} | 0.\dot{3}
\frac{5}{6} | 0.8\overline{3}
1200 | 1,200 | 1{,}200 | 1\,200 | 1 200 | 1200.0 | 1200.00 | 1.2 \times 10^3 | 1.2\cdot10^{3} | 1.2e3 | \$1200 | \$1,200.00 | 1200\text{ dollars} | 1{,}200\text{ m} | 1200 meters | 1,\!200 | 12 \times 100 | 1.2 × 10³ | 1.2*10^3 | 1200 \text{ units} | \text{1200} | n = 1200 | \textbf{1200} | 1~200 | +1200 | 1200\ | \approx 1200 | 1.2 thousand
1,234,567 | 1234567 | 1{,}234{,}567 | 1\,234\,567 | 1 234 567
\$18.50 | 18.5 | 18.50 | \$18.5 | 18.50\text{ dollars} | \frac{37}{2} | \text{\$}18.50 | 18.5 USD | \text{\$18.50} | 18\frac{1}{2}
25\% | 25 | 0.25 | \frac{1}{4} | 25\text{ percent} | 25 percent | 25%
25 | 25\% | 25 \text{ percent} | 25%
0.25 | 25\% | 1/4
12\text{ cm} | 12 | 12 cm | 12\text{ centimeters} | 12 \mathrm{cm} | 12\,\text{cm} | 12~\mathrm{cm} | 12cm | 12 \text{ centimetres}
12\text{ cm}^2 | 12 | 12\text{ square centimeters} | 12\text{ cm}^{2} | 12 cm^2 | 12 cm² | 12\,\mathrm{cm^2} | 12\text{ sq cm} | 12\text{ cm$^2$}
\$18\text{ per hour} | 18 | \$18/\text{hour} | 18\text{ dollars per hour} | 18 dollars an hour
18 | \$18\text{ per hour} | \$18 per hour | \$18/\text{h} | \$18\text{ an hour}
\$18 | \$18\text{ each} | \$18 each | 18\text{ dollars each} | \$18\text{ in total}
60\% | 60\%\text{ of the class} | 60\% of the class | 60\text{\% of students}
7 | 7 \pmod{11} | x \equiv 7 \pmod{11} | 7\ (\mathrm{mod}\ 11) | 7 (mod 11) | 18 \bmod 11 | 18 \bmod 11 = 7 | x \equiv 7 \bmod 11
7 \pmod{11} | 7 | n \equiv 7 \pmod{11} | 18 \pmod{11} | x \equiv -4 \pmod{11} | 7 \bmod 11
60\text{ mph} | 60 | 60\text{ miles per hour} | 60 mph | 60 \text{ mi/h} | 60\ \text{miles/hour}
45^\circ | 45 | 45° | 45\text{ degrees} | 45^{\circ} | 45 degrees | 45\degree | \angle A = 45^\circ | x = 45^\circ | 45.0^\circ
7 | 7 apples | 7\text{ apples} | 7 \text{ red apples} | x=7 | \text{7 apples} | \mathbf{7} | 7. | \boxed{7} | 007 | \sqrt{49} | 3+4 = 7 | \text{Answer: } 7 | \text{The final answer is }7 | The answer is 7 | \textbf{Answer: } 7 | f(2) = 7 | \lceil 6.5 \rceil | \lfloor 7.2 \rfloor | \log_2 128 | 7^1 | \frac{7}{1} | 14/2 | 7\text{ ways} | 7 students | \text{seven}
24 | 4! | 2^3 \cdot 3 | \binom{24}{1} | 2^3\times3 | 4 \cdot 6 | (4)(6)
10 | \binom{5}{2} | {5 \choose 2}
3\sqrt{2} | \sqrt{18} | 3\sqrt2 | \sqrt{2}\cdot 3 | \frac{6}{\sqrt{2}} | 3*sqrt(2) | 3√2 | 3 \times \sqrt{2} | 3\cdot 2^{1/2} | 3 \, \sqrt{2} | 3 sqrt 2 | x = 3\sqrt{2} \approx 4.24 | 3\sqrt{2}\text{ cm} | 3(2^{\frac12})
\frac{\sqrt{3}}{3} | \frac{1}{\sqrt{3}} | \sqrt{3}/3 | \frac{\sqrt3}3 | \tan 30^\circ | \sqrt{\frac13} | \frac13\sqrt3 | \tan\frac{\pi}{6} | 3^{-1/2}
2\sqrt{3} | √12 | 2√3 | sqrt12 | 2 sqrt(3)
\frac{3+\sqrt{17}}{2} | (3+√17)/2
4 | √16 | 2²
\sqrt{x} | √x | x^{1/2}
10^{-3} | 10⁻³ | 0.001
\sqrt[3]{16} | 2\sqrt[3]{2} | 16^{1/3} | 2 \cdot 2^{1/3}
12\pi | 12 \pi | 12π | 12pi | \pi \cdot 12 | 12\pi \text{ cm} | 12*pi | 12\pi\approx 37.7 | 12 \cdot \pi
\frac{\pi}{3} | \pi/3 | \frac{1}{3}\pi | \frac{2\pi}{6} | π/3 | \arccos \frac12 | \cos^{-1}(1/2) | \frac{\pi}{3}\text{ radians} | \theta = \frac{\pi}{3}
2+3i | 3i+2 | 2 + 3i | 2+3 i | 2+i3 | 2+3\mathrm{i} | z = 2+3i | 2+i\cdot 3
(3,5] | (3, 5] | x \in (3,5] | 3 < x \le 5 | 3<x\leq 5 | \left(3,5\right] | 5 \ge x > 3 | 3 < x <= 5 | \{x \mid 3 < x \le 5\} | (3,5\,] | x∈(3,5] | (3.0, \frac{10}{2}] | 3 < x ≤ 5
[2,\infty) | x \ge 2 | x \geq 2 | [2, \infty) | [2,+\infty) | 2 \le x | x>=2 | \left[2,\infty\right) | x\in[2,\infty) | [2, ∞) | t \ge 2 | [2, \infty]
(-\infty, 1) \cup (4, \infty) | x < 1 \text{ or } x > 4 | (-\infty,1)\cup(4,\infty) | (4,\infty)\cup(-\infty,1) | x<1 or x>4 | x\in(-\infty,1)\cup(4,\infty) | x > 4 \text{ or } x < 1 | \left(-\infty,1\right) \cup \left(4,+\infty\right)
(-\infty, 2) \cup (2, \infty) | x \ne 2 | x\neq 2 | \mathbb{R} \setminus \{2\} | \mathbb{R}\backslash\{2\}
(-\infty,\infty) | \mathbb{R} | \text{all real numbers} | all real numbers | x \in \mathbb{R}
\{1,2,3\} | \{3,2,1\} | 1,2,3 | \{1, 2, 3\} | \left\{1,2,3\right\} | 1, 2, 3 | x \in \{1,2,3\} | 1, 2, \text{ and } 3 | 1,2 and 3
\{2 \pm \sqrt{3}\} | 2+\sqrt{3}, 2-\sqrt{3} | 2 \pm \sqrt{3} | \{2-\sqrt3,2+\sqrt3\} | 2\pm\sqrt3
3+2\sqrt{2}, 3-2\sqrt{2} | 3\pm2\sqrt{2} | 3 \pm 2\sqrt2 | x=3\mp2\sqrt2
4,-7 | -7,4 | -7, 4 | x=4, x=-7 | x = 4 \text{ or } x = -7 | 4 \text{ and } -7 | \{4,-7\} | x = 4, -7 | x=4 or x=-7 | 4 or -7 | x_1 = 4, x_2 = -7 | x = -7, 4 | x \in \{-7, 4\}
\pm 3 | 3, -3 | -3, 3 | \{3,-3\} | x = \pm 3 | ±3 | x=3 \text{ or } x=-3 | \pm3 | x=\pm3
(4,-7) | (4, -7) | \left(4,-7\right) | 4,-7 | x=4, y=-7 | (x,y) = (4,-7) | x = 4 \text{ and } y = -7 | \langle 4,-7 \rangle | y=-7, x=4 | (4.0,-7) | P = (4,-7)
(1,2,3) | 1,2,3 | (1, 2, 3) | a=1, b=2, c=3 | (a,b,c)=(1,2,3) | \left( 1,2,3 \right)
(\frac12, \frac13) | (0.5, 1/3) | (1/2,1/3) | \left(\frac{1}{2}, \frac{1}{3}\right) | \left(\dfrac12,\dfrac13\right)
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{bmatrix}1&2\\3&4\end{bmatrix} | \left(\begin{array}{cc} 1 & 2 \\ 3 & 4 \end{array}\right) | A = \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{pmatrix} 1 & 2 \\ 3 & 4 \\ \end{pmatrix} | \begin{pmatrix} 1 & 2 \\[2pt] 3 & \frac{8}{2} \end{pmatrix} | \left[\begin{matrix}1 & 2\\3 & 4\end{matrix}\right]
\begin{pmatrix} 1/2 \\ -3 \end{pmatrix} | \begin{pmatrix} 0.5 \\ -3 \end{pmatrix} | \begin{bmatrix} \frac12 \\ -3 \end{bmatrix} | \frac12\begin{pmatrix} 1 \\ -6 \end{pmatrix} | \begin{pmatrix} \dfrac{1}{2} \\\\ -3 \end{pmatrix}
\text{Alice} | Alice | \text{alice} | \textbf{Alice} | \mathrm{Alice} | \text{Alice.} | Alice. | \text{ Alice } | \textrm{Alice} | **Alice**
\text{circle} | \text{a circle} | circle | Circle | \text{the circle} | a circle
\text{(B)} | B | (B) | \text{B} | \textbf{(B)} | \text{(B)}\ 12 | B. | \mathrm{B} | B) | \text{(B) } 12 | \mathbf{(B)} | \text{Option B} | \text{b}
C | (C) | \text{(C)} | \text{C} | C.
\text{no} | No | no | NO. | \text{No}
\text{two} | 2 | two
10 | ten | \text{ten} | Ten
\text{no solution} | No solution | \text{No solution} | no solution.
52_8 | 52_{8} | (52)_8 | 52_{\text{eight}} | 52\text{ base }8 | 52_{(8)} | 52_\text{eight} | 52_{\text{base }8} | 52 \text{ (base 8)} | 52_8. | 52₈
1A_{16} | 1A_{16} | 1A_{\text{sixteen}}
x^2+2x+1 | (x+1)^2 | 1+2x+x^2 | x^{2} + 2x + 1 | x(x+2)+1 | (x+1)(x+1) | x^2+2*x+1 | f(x) = x^2+2x+1 | x² + 2x + 1 | (1+x)^2 | y = (x+1)^2
\sin^2 x | 1-\cos^2 x | (\sin x)^2 | \sin^2(x) | \sin x \cdot \sin x | \sin^{2} x
\frac{1}{x+1} | (x+1)^{-1} | \frac{1}{1+x} | 1/(x+1)
y = 2x - 3 | 2x - y = 3 | y=2x-3 | 2x-y-3=0 | y + 3 = 2x | y = -3 + 2x | y=2(x-1)-1 | 2x-3 | x = \frac{y+3}{2}
2x+3y=6 | 4x+6y=12 | 2x+3y-6=0 | 3y = 6 - 2x | x/3+y/2=1
x^2+y^2=4 | y^2+x^2=4 | x^2+y^2-4=0 | 4 = x^2+y^2 | x^2 + y^2 = 2^2
2^{10} | 1024 | 1,024 | 2^10 | 4^5 | 2¹⁰
e^2 | e^{2} | \exp(2) | e*e | \mathrm{e}^2
\ln 2 | \log_e 2 | \ln(2) | -\ln\frac12
0.0000012 | 1.2 \times 10^{-6} | 1.2e-6 | .0000012 | 1.2 \cdot 10^{-6} | 0.12\times10^{-5}
602000 | 6.02 \times 10^5 | 602{,}000 | 6.02\times10^{5}
-5 | −5 | -5.0 | - 5 | x=-5 | (-5) | –5
0 | -0 | 0.0 | 0.00 | \frac{0}{5} | +0
x = 5 | 5 | x=5 | 5.0 | \text{x = 5}
3:4 | 3:4 | 3 : 4
10:30 | 10:30
\frac{a}{b} | a/b | \frac{2a}{2b}
2ab | 2ba | 2 a b | 2a \cdot b | 2*a*b
ab | ba | a b | a \cdot b
|x| | \sqrt{x^2}
n! | n! | n(n-1)!
2\sqrt{x} | 2x^{1/2} | 2 \sqrt x
\frac{1+\sqrt{5}}{2} | \frac{\sqrt{5}+1}{2} | \frac12+\frac{\sqrt5}{2} | (1+\sqrt{5})/2 | 0.5(1+\sqrt5)
\emptyset | \{\} | \varnothing
5\text{ hours} | 5 hours | 5 \text{ hrs} | 5
3\text{ hours } | 3 h
2,3,5,7 | 2, 3, 5, 7 | 7,5,3,2
\text{Monday} | Monday | monday
9 | 3^2 | \sqrt{81} | 3\times 3 = 9 | 9 \text{ square units} | 9\text{ units}^2
6.5 | 6\frac{1}{2} | 13/2 | 6.50 | 6 1/2 | 6½
1.41 | 1.41\ldots | 1.41... | 1.41…
(2,4) | (2, 4) | 2 < x < 4
2<x<4 | (2,4) | x \in (2,4) | 4 > x > 2 | (2,3] \cup [3,4)
(0,1]\cup[1,2) | (0,2) | 0 < x < 2
(0,1)\cup(1,2) | (0,2) \setminus \{1\}
\begin{pmatrix}1&0\\0&1\end{pmatrix} | \left[\begin{array}{c c}1&0\\0&1\end{array}\right]
x = 2y | y = \frac{x}{2} | 2y = x
y = x | x = y
(3, \frac{\pi}{2}) | (r,\theta)=(3,\frac{\pi}{2}) | \left( 3, \pi/2 \right)
2 | \ln e^2 | \textcolor{red}{2} | \large 2 | \text{There are } 2 \text{ ways} | \text{So } x = 2 | \log_3 9 | \color{red}2
\text{Yes} | yes | Yes | \text{yes}
5.4\text{ cents} | 5.4¢ | 5.4
1000000 | 10^6 | 1,000,000 | 1\text{ million} | 1 million | 10^{6}
\dfrac{9}{7} | 1 \frac{2}{7} | \frac{9}{7} | 1\frac27
"""

WRONG = r"""
\$18\text{ each} | 18\text{ cents each} | 19\text{ dollars each}
60\%\text{ of the class} | 0.6\% | 40\% | 60\text{ cm}
7 \pmod{11} | 7 \pmod{12} | 8 \pmod{11} | 18 | -7 \pmod{11}
7 | 11 \bmod 18 | 18 \bmod 0
\$18\text{ per hour} | \$18\text{ per day} | 18\text{ euros per hour} | \$18.5\text{ per hour}
\frac{3}{4} | 0.74 | 0.7500001 | \frac{4}{3} | 3 | 4 | -\frac34 | 34 | 7.5\% | 0.75\% | (3,4) | 3, 4
\frac13 | 0.333 | 0.33333333 | 33\% | 0.333333333333333 | 3
2\frac{1}{3} | \frac{2}{3} | 21/3 | 2.33 | 2.333333 | 2 \cdot \frac13
\pi | 3.14 | 3.1416 | \frac{22}{7} | 3.14159265358979 | 180
\sqrt{2} | 1.414 | 1.41421356 | 2 | 1.4142135623730951
9 | √19 | 3^{-2}
\frac{\sqrt{3}}{2} | 0.866 | \frac{\sqrt3}{3} | \frac{3}{2}
12\pi | 12 | 37.7 | 37.699 | 12\pi^2 | \pi
1200 | 1.2 | 12000 | 1,20 | 1.200 | 120 | 1200\% \text{ or } 3
\$18.50 | 18.05 | 1850 | 18.50\text{ cents} | €18.50
5.4\text{ cents} | \$5.4 | 54 | 5.4 \text{ dollars}
50\% | 5 | 0.05 | 500 | 0.5\%
50 | 0.5 | 5 | 50_8 | 50, 0
0.5 | 50 | 5\%
12\text{ cm}^2 | 12\text{ cm} | 12 \text{ in}^2 | 12\text{ m}^2 | 144
12\text{ cm} | 12\text{ m} | 12\text{ mm} | 12\text{ in} | 12x
90^\circ | 91 | 90\pi | 90\text{ cm}
52_8 | 52 | 52_9 | 42 | 528 | 52_{10} | 25_8 | 5_28
42 | 52_8 | 101010_2
(1,-2) | (-2,1) | 1 | \{1,-2\} | [1,-2] | (1,-2] | (1,-2,0) | -2, 1
1,-2 | (1,-2) | 1 | -2 | 1,2 | 1,-2,3 | [1,-2] | 1, 1 | 1 \text{ or } 2
\{1,2\} | \{1\} | \{1,2,3\} | (1,2) | [1,2] | \{1,1\} | 12
(3,4] | (3,4) | [3,4] | [3,4) | 3 \le x \le 4 | 3<x<4 | (4,3] | 3, 4 | \{3,4\} | (3,5]
(2,\infty) | [2,\infty) | x \ge 2 | x < 2 | (-\infty,2) | 2 | (2, 10^9) | x \ne 2
(0,9)\cup(9,36) | (0,36) | (0,9] \cup (9,36) | (0,9) | (0,9)\cup[9,36) | (0,9),(9,36)
(-\infty,1)\cup(4,\infty) | 1<x<4 | (1,4) | x<1 \text{ and } x > 5 | x \le 1 \text{ or } x \ge 4 | (-\infty,1]\cup[4,\infty)
1 \pm \sqrt{19} | 1+\sqrt{19} | 1-\sqrt{19} | 1 \pm \sqrt{17} | 1, \sqrt{19} | \pm 1 + 19
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix} | \begin{pmatrix} 1 & 2 & 3 & 4 \end{pmatrix} | \begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix} | -2
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix} 1 & 2 \end{pmatrix} | \begin{pmatrix} 2 \\ 1 \end{pmatrix}
\text{Alice} | Bob | \text{Alice and Bob} | Alicia | A | \text{not Alice}
\text{Tea} | Eat | ate
113 | 11\,3
\text{even} | odd | \text{neither} | \text{not even}
C | (B) | \text{(B)} | (C) \text{ or } (D)
10 | two | eleven
\text{no} | yes | on
\text{(C)} | B | \text{(B)} | (C) \text{ or } (D) | C, D | \text{(C), (D)} | D
\text{east} | west | \text{northeast} | \text{south-east}
6-5i | 6+5i | 5-6i | -6+5i | 6-5 | 6 | (6,-5)
x^2+2x+1 | x^2+2x-1 | x^2+2y+1 | 2x^2+4x+2 | (x-1)^2
(a+5)(b+2) | (a+2)(b+5) | ab+10 | (A+5)(B+2)
\cot x | \tan x | \frac{\sin x}{\cos x} | \cot y
5x - 7y + 11z + 4 = 0 | 5x-7y+11z-4=0 | 5x-7y+11z+4 | 5x - 7y + 11z = 4 | -5x-7y+11z+4=0
y = 2x+3 | y=3x+2 | y = 2x-3 | x = 2y+3 | y = 2x | 2y = 2x+3
x = 5 \text{ cm} | x = 5 \text{ in}
x = 2y | y = 2x | 2y - x | x = 2z
2<x<4 | (2,4] | (4,2) | \{2,4\} | 2,4
x = 5 | x = 4 | y = 4 | x \ne 5 | x > 5 | x \ge 5 | -5
7 | \text{not } 7 | 7 \text{ or } 8 | x \ne 7 | 7, 8 | \text{at least } 7 | 7 \text{ or more} | > 7 | 7x | 77 | -7 | 7! | 7\text{ dozen} | 7 \text{ hundred} | \approx 7.1 | 3 + 4 = 8 | 7_{8} | \frac{1}{7} | 7\% \text{ or } 8
3 | 3\text{ remainder }2 | \sqrt{3} | 3^\circ \text{ to } 4 | 3i | 3 \pm 1
0.0000672 | 0.0000671 | 0.000067 | 0 | 6.72 \times 10^{-4} | 6.72 \times 10^5
3.21 | 3.2 | 3.210001 | 3.22 | 321 | 3,21
1000000 | 999999.9999999 | 10^5 | 10^7 | 1000001
2^{100} | 2^{100}+1 | 1267650600228229401496703205377 | 1.2676506 \times 10^{30}
2^{2007}-1 | 2^{2007} | 2^{2007}+1 | 2^{2006}
10^{-100} | 2 \cdot 10^{-100} | 0
3R^2 | 3r^3 | 3R | R^2
p - q | q - p | p+q | pq
2k+2 | 2k | k+1 | 2k+2 \text{ or } 2k
\frac{11+9a}{20} | \frac{11+9a}{10} | 11+\frac{9a}{20} | \frac{9+11a}{20}
e | 2.718281828 | 2.71828182845904523536
\ln 2 | 0.693147
100 | 10^{10} | 1e3 | 100! | 10,0 
720 | 6 | 6!! | 5!
3:4 | 4:3 | \frac{3}{5}
4 | 2^3 | 4! | \{4, 5\} | x^4
\text{ellipse} | \text{circle} | \text{hyperbola} | e
-\frac{1}{2} | \frac12 | -2 | -\frac{1}{-2}
1.41 | 1.414\ldots | \sqrt2 | 1.42
"""


def pairs(block: str) -> list[tuple[str, str]]:
    """(gold, answer) pairs of a block."""
    lines = [[part.strip() for part in line.split(" | ")] for line in block.strip().splitlines()]
    return [(gold, answer) for gold, *answers in lines for answer in answers]
